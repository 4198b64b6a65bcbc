"""The broker: workers stay connected to it, R sessions in the scheduler pod ask it for as many as they need.

Standard library only, Python 3.11 and later: it runs in the image, beside R, and installs nothing there.
"""
