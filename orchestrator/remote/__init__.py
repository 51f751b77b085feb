"""All input and output to other machines."""
