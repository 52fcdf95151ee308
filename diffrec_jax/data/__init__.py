"""From a log file to device-resident rows: readers, preparation, splits, noise, recency, named datasets."""
