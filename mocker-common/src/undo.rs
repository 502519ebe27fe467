//! Undo inside one tool: whoever makes something hands over its inverse in the same breath.

use crate::error::Error;

/// The inverses of what this tool has made so far.
#[derive(Default)]
pub struct Undo {
    inverses: Vec<(String, Inverse)>,
}

type Inverse = Box<dyn FnOnce() -> Result<(), Error>>;

impl Undo {
    pub fn new() -> Self {
        Undo::default()
    }

    /// Notes how to unmake what was just made. `what` names it for the error: `bridge mocker0`.
    pub fn push(&mut self, what: impl Into<String>, inverse: impl FnOnce() -> Result<(), Error> + 'static) {
        self.inverses.push((what.into(), Box::new(inverse)));
    }

    /// Unmakes everything, last made first. One failure does not stop the rest; all are returned.
    pub fn run(&mut self) -> Vec<Error> {
        let mut failures = Vec::new();
        while let Some((what, inverse)) = self.inverses.pop() {
            if let Err(error) = inverse() {
                failures.push(error.while_doing(format!("undoing {what}")));
            }
        }
        failures
    }

    /// Everything succeeded and stays.
    pub fn disarm(&mut self) {
        self.inverses.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    #[test]
    fn the_last_made_goes_first_and_a_failure_stops_nothing() {
        let order = Rc::new(RefCell::new(Vec::new()));
        let mut undo = Undo::new();
        for name in ["a", "b", "c"] {
            let order = order.clone();
            undo.push(name, move || {
                order.borrow_mut().push(name);
                if name == "b" { Err(Error::new("stuck")) } else { Ok(()) }
            });
        }
        let failures = undo.run();
        assert_eq!(*order.borrow(), ["c", "b", "a"]);
        assert_eq!(failures.len(), 1);
        assert_eq!(failures[0].what, "undoing b: stuck");
        assert!(undo.run().is_empty(), "undo runs once");
    }
}
