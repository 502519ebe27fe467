//! The runtime specification, version 1.3: what an OCI runtime must do, looked at from outside and from within.
//!
//! docs/runtime-spec.md lists every MUST with the test that holds it. Run with `MOCKER_TEST_RUNTIME=runc` these tests try
//! themselves on runc; what fails there is where runc 1.1 differs from the specification.

mod hooks;
mod lifecycle;
mod linux;
mod process;
mod table;
