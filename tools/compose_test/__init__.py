"""The compose file for real: built, brought up, hurt, rolled, judged and taken down. `make compose-test`.

A Docker daemon that answers is used as it is, with the images that docker-compose.yml names. Where there is none, and
we are root, one is started in a temporary directory, with a Debian base made by debootstrap in the place of every
image, so that no image registry is needed; afterwards nothing of it is left.
"""
