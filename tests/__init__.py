"""The tests of this service; those of the platform are in `platform`."""
