"""The demo model: its village, its stories, its dialogues, and the training of it."""
