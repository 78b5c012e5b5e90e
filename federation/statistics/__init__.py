"""Statistics over silos: what a run of them asks for, what each silo sends, and what they come to together."""
