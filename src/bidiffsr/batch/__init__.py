"""Many pictures: what is to be done, and who does it."""
