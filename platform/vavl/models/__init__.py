"""The VAVL network and its parts."""
