"""What a directory of recordings holds, and the card that it proposes."""
