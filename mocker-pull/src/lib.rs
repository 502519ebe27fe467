//! The parts of mocker-pull.

pub mod clock;
pub mod layer;
pub mod manifest;
pub mod platform;
pub mod progress;
pub mod pull;
pub mod registry;
pub mod repair;
