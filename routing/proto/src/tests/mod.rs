mod bfd;
mod choice;
mod differential;
mod errors;
mod pair;
mod sessions;
mod told;
