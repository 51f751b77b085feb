"""SSH: only this folder imports fabric and paramiko, and none of their exceptions leaves it."""
