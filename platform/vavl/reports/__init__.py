"""Pictures and HTML pages for people."""
