"""One thin module a command. Only these parse arguments; what they start is imported when it is needed."""
