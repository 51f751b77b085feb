"""The one door for SSH: no other folder imports fabric or paramiko, and none of their exceptions leaves it."""
