"""Plugins for the frameworks that have a place for them. Each module imports its framework; nothing else imports them."""
