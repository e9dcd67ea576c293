//! The books of one player's inputs through all lives of its client.
//!
//! A life is a conversation with the server; it ends with a crash, of the client or of the server.

/// Own inputs, numbered through all lives. The end of a life may take inputs with it: its last
/// ones. Nothing else may be missing, and nothing may come twice.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// The number of the first input of each life.
    lives: Vec<i32>,
    sent: i32,
    /// The next number that the present stream may bring, by what it has brought.
    stream: i32,
    /// The same over all streams.
    seen: i32,
    /// Inputs that crashes took.
    lost: u64,
}

impl Ledger {
    /// A client begins; what another one has sent may get lost from now on.
    pub(crate) fn begin_life(&mut self) {
        if self.lives.last() != Some(&self.sent) {
            self.lives.push(self.sent);
        }
    }

    /// The frames come again from 0.
    pub(crate) fn begin_stream(&mut self) {
        self.stream = 0;
    }

    /// The number of the next input.
    pub(crate) fn next(&self) -> i32 {
        self.sent
    }

    /// The next input has left.
    pub(crate) fn left(&mut self) {
        self.sent += 1;
    }

    /// An own input with this number is in a frame.
    ///
    /// # Errors
    /// What is wrong with that.
    pub(crate) fn returned(&mut self, number: i32) -> Result<(), String> {
        if number >= self.sent || number < 0 {
            return Err(format!("input {number} was never sent"));
        }
        if number < self.stream {
            return Err(format!("input {number} comes again"));
        }
        let missing = self.stream..number;
        self.stream = number + 1;
        if number >= self.seen {
            self.lost += u64::from((number - self.seen).cast_unsigned());
            self.seen = number + 1;
        }
        match missing.last() {
            // What came before it in the same life was sent before it in one conversation.
            Some(last) if self.life(last) == self.life(number) => {
                Err(format!("input {last} is missing before {number}"))
            }
            _ => Ok(()),
        }
    }

    fn life(&self, number: i32) -> usize {
        self.lives.partition_point(|first| *first <= number)
    }

    /// Inputs of the present life that the present stream has not brought.
    pub(crate) fn missing(&self) -> u64 {
        let first = self.lives.last().copied().unwrap_or(0);
        u64::from((self.sent - self.stream.max(first)).cast_unsigned())
    }

    /// Inputs that have left.
    pub(crate) fn sent(&self) -> u64 {
        u64::from(self.sent.cast_unsigned())
    }

    /// Inputs that came back.
    pub(crate) fn seen(&self) -> u64 {
        u64::from(self.seen.cast_unsigned()) - self.lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two lives of five inputs each.
    fn two_lives() -> Ledger {
        let mut ledger = Ledger::default();
        for _ in 0..2 {
            ledger.begin_life();
            (0..5).for_each(|_| ledger.left());
        }
        ledger
    }

    #[test]
    fn a_crash_may_take_the_last_inputs_of_its_life() {
        let mut ledger = two_lives();
        for number in [0, 1, 2, 5, 6] {
            ledger.returned(number).unwrap();
        }
        assert_eq!((ledger.sent(), ledger.seen(), ledger.missing()), (10, 5, 3));
        ledger.begin_stream();
        assert_eq!(ledger.missing(), 5);
        for number in [0, 1, 2, 5, 6, 7, 8, 9] {
            ledger.returned(number).unwrap();
        }
        assert_eq!((ledger.seen(), ledger.missing()), (8, 0));
    }

    #[test]
    fn an_input_that_comes_again_or_without_its_earlier_ones_is_told() {
        let mut ledger = two_lives();
        ledger.returned(0).unwrap();
        assert!(ledger.returned(0).unwrap_err().contains("again"));
        assert!(ledger.returned(2).unwrap_err().contains("missing"));
        assert!(ledger.returned(6).unwrap_err().contains("missing"));
        assert!(ledger.returned(10).unwrap_err().contains("never"));
        assert!(ledger.returned(-1).unwrap_err().contains("never"));
    }
}
