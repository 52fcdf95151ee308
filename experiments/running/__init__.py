"""Third floor: data are read, models are trained and searched, and run folders are written."""
