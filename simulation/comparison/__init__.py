"""Methods side by side: the same rows and the same budget, task by task what sharing gained or cost."""
