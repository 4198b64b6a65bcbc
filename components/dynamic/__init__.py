"""Dynamic resources. Stacks store their modules by import path: never move or rename one."""
