"""How much of everything an evening needs: a model of costs, and a simulation of everybody's return. Pure: no I/O."""
