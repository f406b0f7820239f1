//! `packaging/bootstrap.sh` in every shell it may meet, with a stand-in for execd that says what it
//! was given, and in the last tests with the real one.

mod certificate;
mod scene;
mod start;
mod stop;
