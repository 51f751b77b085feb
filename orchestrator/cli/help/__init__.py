"""What ``orch`` says about itself: pages of verbs, topics, versions, and completion for shells."""
