"""Archives and file systems that guests and hosts boot from, written without root."""
