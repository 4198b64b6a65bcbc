"""A virtual machine of Debian packages, in which README's two commands run as on a new machine."""
