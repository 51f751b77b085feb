"""What a user is asked and shown while a hosts file is made, and what its keys come to."""
