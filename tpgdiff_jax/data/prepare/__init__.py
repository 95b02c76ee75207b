"""Write fixed test sets from clean photos, and look at them first."""
