//! What every scheme must hold to.
