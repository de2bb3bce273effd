"""Who serves whom: members, guides, clerks, and how each of them signs in."""
