"""What ``orch`` says about itself: its front page, a page for each verb, and topics."""
