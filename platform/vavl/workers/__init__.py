"""Work in parts on a pool of Ray workers that survives clips which end a process."""
