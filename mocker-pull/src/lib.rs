//! The parts of mocker-pull.

pub mod cli;
pub mod layer;
pub mod lenders;
pub mod manifest;
pub mod platform;
pub mod progress;
pub mod pull;
pub mod push;
pub mod registry;
pub mod repair;
pub mod source;
