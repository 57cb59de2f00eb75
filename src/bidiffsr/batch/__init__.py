"""Many pictures: what is to be done, and one file after the other."""
