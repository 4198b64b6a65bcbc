"""A virtual machine of Debian packages, which runs README's two commands as a new machine would."""
