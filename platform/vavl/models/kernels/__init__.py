"""Fast forms of the network's parts, each equal to the plain one."""
