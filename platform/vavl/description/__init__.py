"""What a folder of recordings holds, and the card that it proposes."""
