"""What the training folder holds: folders, pictures and captions."""
