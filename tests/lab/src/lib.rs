//! penstock-lab
