"""The page "My library": tuned models with their loss curves, and forms to tune them and to send them prompts."""
