"""Whatever knows Intel CMK and kcm."""
