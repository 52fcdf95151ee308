"""First floor: what the person who types a command may say, and what a process is told before it begins."""
