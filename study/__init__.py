"""A study is a frozen question; this floor turns it into trials and trials into an answer."""
