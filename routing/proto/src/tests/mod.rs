mod bfd;
mod choice;
mod differential;
mod errors;
mod monitors;
mod pair;
mod sessions;
mod told;
