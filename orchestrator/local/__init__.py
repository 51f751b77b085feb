"""Files of the control machine: run folders, hosts files, wheels and data sets."""
