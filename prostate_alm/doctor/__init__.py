"""What an installation has and lacks: each check says what it found, what that means, and what to do."""
