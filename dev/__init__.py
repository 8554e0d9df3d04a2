"""Commands for a developer's machine; none of this is in the image."""
