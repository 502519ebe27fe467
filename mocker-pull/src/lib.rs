//! The parts of mocker-pull.

pub mod calls;
pub mod fixup;
pub mod member;
pub mod notes;
pub mod sparse;
pub mod tree;
pub mod unpack;
pub mod whiteout;
