//! Reads a line word by word.

/// What is left of a line.
#[derive(Clone, Copy, Debug)]
pub struct Cursor<'t>(pub &'t [u8]);

impl<'t> Cursor<'t> {
    /// Takes a word if it is next.
    pub fn eat(&mut self, word: &str) -> bool {
        match self.0.strip_prefix(word.as_bytes()) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }

    /// Takes a word that must be next.
    pub fn need(&mut self, word: &str) -> Result<(), String> {
        if self.eat(word) {
            Ok(())
        } else {
            Err(format!("expected `{word}`, found {}", self.shown()))
        }
    }

    /// The beginning of what is left, for a message.
    #[must_use]
    pub fn shown(&self) -> String {
        let text = String::from_utf8_lossy(&self.0[..self.0.len().min(24)]).into_owned();
        crate::diagnostic::quoted(&text)
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes all bytes that fulfil a condition.
    pub fn take_while(&mut self, condition: impl Fn(u8) -> bool) -> &'t [u8] {
        let end = self.0.iter().position(|byte| !condition(*byte)).unwrap_or(self.0.len());
        let (taken, rest) = self.0.split_at(end);
        self.0 = rest;
        taken
    }

    /// Takes a decimal number without leading zeros, up to `most`.
    pub fn decimal(&mut self, most: u64) -> Result<u64, String> {
        let before = *self;
        let digits = self.take_while(|byte| byte.is_ascii_digit());
        let number = digits
            .iter()
            .try_fold(0u64, |number, digit| {
                number.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
            })
            .filter(|number| *number <= most);
        let padded = digits.len() > 1 && digits[0] == b'0';
        number
            .filter(|_| !digits.is_empty() && !padded)
            .ok_or_else(|| format!("expected a number up to {most}, found {}", before.shown()))
    }

    /// Takes a number that is 0 or has the prefix `0x`.
    pub fn hex(&mut self, most: u64) -> Result<u64, String> {
        let before = *self;
        if !self.eat("0x") {
            return self.decimal(0);
        }
        let mut number = 0u64;
        let mut digits = 0;
        while let Some(digit) = self.0.first().and_then(|byte| hex_digit(*byte)) {
            number = number << 4 | digit;
            digits += 1;
            self.0 = &self.0[1..];
        }
        if digits == 0 || digits > 16 || number > most {
            return Err(format!("expected a number such as 0x1f, found {}", before.shown()));
        }
        Ok(number)
    }

    /// Takes a decimal or hexadecimal number.
    pub fn number(&mut self, most: u64) -> Result<u64, String> {
        if self.0.starts_with(b"0x") { self.hex(most) } else { self.decimal(most) }
    }

    /// Takes an address.
    pub fn address(&mut self) -> Result<u64, String> {
        let mut number = 0;
        for place in 0..4 {
            if place > 0 {
                self.need(".")?;
            }
            number = number << 8 | self.decimal(255)?;
        }
        Ok(number)
    }

    /// Takes an address or a network without host bits.
    pub fn network(&mut self) -> Result<(u64, u64), String> {
        let before = *self;
        let address = self.address()?;
        if !self.eat("/") {
            return Ok((address, address));
        }
        let length = self.decimal(32)?;
        let size = 1u64 << (32 - length);
        if address % size != 0 {
            return Err(format!("host bits in {}", before.shown()));
        }
        Ok((address, address + size - 1))
    }

    /// Takes an Ethernet address.
    pub fn mac(&mut self) -> Result<u64, String> {
        let mut number = 0;
        for place in 0..6 {
            if place > 0 {
                self.need(":")?;
            }
            for _ in 0..2 {
                let digit = self.0.first().and_then(|byte| hex_digit(*byte));
                number = number << 4
                    | digit.ok_or_else(|| format!("expected a MAC, found {}", self.shown()))?;
                self.0 = &self.0[1..];
            }
        }
        Ok(number)
    }
}

fn hex_digit(byte: u8) -> Option<u64> {
    match byte {
        b'0'..=b'9' => Some(u64::from(byte - b'0')),
        b'a'..=b'f' => Some(u64::from(byte - b'a' + 10)),
        _ => None,
    }
}
