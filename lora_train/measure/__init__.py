"""What each block of a mix of LoRAs does to the noise prediction, and block weights tuned against stated goals."""
