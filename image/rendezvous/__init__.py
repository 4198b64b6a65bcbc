"""The rendezvous: workers stay connected to it, R sessions in the scheduler pod are handed as many as they ask for.

Standard library only, Python 3.11 and later: it runs in the image, beside R, and installs nothing there.
"""
