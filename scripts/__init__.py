"""Programs for those who build and look after this project."""
