//! The tree of a template.

use serde_json::Value;

use crate::lex::{Segment, Token, segments, tokens};
use crate::{MAX_DEPTH, TemplateError};

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Node {
    Text(String),
    /// `{{ pipeline }}`; one that sets a variable prints nothing.
    Action(Pipeline),
    If(Pipeline, Vec<Node>, Vec<Node>),
    With(Pipeline, Vec<Node>, Vec<Node>),
    Range(Pipeline, Vec<Node>, Vec<Node>),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pipeline {
    /// Variables that get the result; two in a range: key and element.
    pub(crate) variables: Vec<String>,
    /// `:=`, not `=`.
    pub(crate) declares: bool,
    /// Each gets the result of the one before as its last argument.
    pub(crate) commands: Vec<Command>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Command {
    Operand(Operand),
    Call(String, Vec<Operand>),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Operand {
    pub(crate) base: Base,
    pub(crate) fields: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Base {
    Dot,
    Variable(String),
    Literal(Value),
    /// A function without arguments.
    Function(String),
    Group(Box<Pipeline>),
}

/// What ended a list of nodes.
enum Closing {
    Template,
    End,
    /// With what stands behind `else`.
    Else(String),
}

/// Whether a function of a name exists.
type Known<'a> = &'a dyn Fn(&str) -> bool;

pub(crate) fn parse(template: &str, known: Known) -> Result<Vec<Node>, TemplateError> {
    let mut segments = segments(template)?.into_iter();
    match list(&mut segments, known, 0)? {
        (nodes, Closing::Template) => Ok(nodes),
        (_, Closing::End) => Err(unexpected("end", "end")),
        (_, Closing::Else(_)) => Err(unexpected("else", "else")),
    }
}

fn unexpected(found: &str, action: &str) -> TemplateError {
    TemplateError::Unexpected { found: found.to_owned(), action: action.to_owned() }
}

type Segments = std::vec::IntoIter<Segment>;

fn list(segments: &mut Segments, known: Known, depth: usize) -> Result<(Vec<Node>, Closing), TemplateError> {
    if depth > MAX_DEPTH {
        return Err(TemplateError::Depth);
    }
    let mut nodes = Vec::new();
    while let Some(segment) = segments.next() {
        let action = match segment {
            Segment::Text(text) => {
                nodes.push(Node::Text(text));
                continue;
            }
            Segment::Action(action) => action,
        };
        let (word, rest) = action.split_once(char::is_whitespace).unwrap_or((&action, ""));
        match word {
            "end" if rest.is_empty() => return Ok((nodes, Closing::End)),
            "else" => return Ok((nodes, Closing::Else(rest.trim().to_owned()))),
            "if" | "with" | "range" => nodes.push(block(word, rest, &action, segments, known, depth + 1)?),
            "define" | "template" | "block" | "break" | "continue" => return Err(unexpected(word, &action)),
            _ => nodes.push(Node::Action(Parser::new(&action, known)?.whole(0)?)),
        }
    }
    Ok((nodes, Closing::Template))
}

fn block(
    word: &str,
    rest: &str,
    action: &str,
    segments: &mut Segments,
    known: Known,
    depth: usize,
) -> Result<Node, TemplateError> {
    let pipeline = Parser::new(rest, known)?.whole(0)?;
    let (body, end) = list(segments, known, depth)?;
    let otherwise = match end {
        Closing::Template => return Err(TemplateError::NoEnd(action.to_owned())),
        Closing::End => Vec::new(),
        Closing::Else(rest) if rest.is_empty() => match list(segments, known, depth)? {
            (nodes, Closing::End) => nodes,
            (_, Closing::Else(_)) => return Err(unexpected("else", action)),
            (_, Closing::Template) => return Err(TemplateError::NoEnd(action.to_owned())),
        },
        // `{{else if x}}`: the block inside shares the end of this one.
        Closing::Else(rest) => {
            let (inner, condition) = rest.split_once(char::is_whitespace).unwrap_or((&rest, ""));
            if inner != word || word == "range" {
                return Err(unexpected(inner, &format!("else {rest}")));
            }
            vec![block(inner, condition, action, segments, known, depth + 1)?]
        }
    };
    Ok(match word {
        "if" => Node::If(pipeline, body, otherwise),
        "with" => Node::With(pipeline, body, otherwise),
        _ => Node::Range(pipeline, body, otherwise),
    })
}

struct Parser<'a> {
    action: &'a str,
    known: Known<'a>,
    tokens: std::iter::Peekable<std::vec::IntoIter<Token>>,
}

impl<'a> Parser<'a> {
    fn new(action: &'a str, known: Known<'a>) -> Result<Self, TemplateError> {
        Ok(Self { action, known, tokens: tokens(action)?.into_iter().peekable() })
    }

    fn unexpected(&self, token: &Token) -> TemplateError {
        unexpected(&format!("{token:?}"), self.action)
    }

    /// A pipeline and nothing after it.
    fn whole(mut self, depth: usize) -> Result<Pipeline, TemplateError> {
        let pipeline = self.pipeline(depth)?;
        match self.tokens.next() {
            None => Ok(pipeline),
            Some(token) => Err(self.unexpected(&token)),
        }
    }

    fn pipeline(&mut self, depth: usize) -> Result<Pipeline, TemplateError> {
        if depth > MAX_DEPTH {
            return Err(TemplateError::Depth);
        }
        let (variables, declares) = self.variables()?;
        let mut commands = vec![self.command(depth)?];
        while self.tokens.next_if_eq(&Token::Pipe).is_some() {
            commands.push(self.command(depth)?);
        }
        Ok(Pipeline { variables, declares, commands })
    }

    /// `$x :=`, `$x =` or `$key, $element :=`, if the pipeline begins so.
    fn variables(&mut self) -> Result<(Vec<String>, bool), TemplateError> {
        let mut ahead = self.tokens.clone();
        let mut variables = Vec::new();
        while let Some(Token::Variable(name)) = ahead.next_if(|token| matches!(token, Token::Variable(_))) {
            variables.push(name);
            if ahead.next_if_eq(&Token::Comma).is_none() {
                break;
            }
        }
        let declares = match ahead.next() {
            Some(Token::Declare) => true,
            Some(Token::Assign) => false,
            _ => return Ok((Vec::new(), false)),
        };
        if variables.is_empty() || variables.len() > 2 {
            return Err(unexpected("assignment", self.action));
        }
        self.tokens = ahead;
        Ok((variables, declares))
    }

    fn command(&mut self, depth: usize) -> Result<Command, TemplateError> {
        let mut operands = Vec::new();
        while let Some(token) = self.tokens.next_if(|token| !matches!(token, Token::Pipe | Token::Close)) {
            operands.push(self.operand(token, depth)?);
        }
        let mut operands = operands.into_iter();
        let first = operands.next().ok_or_else(|| TemplateError::Empty(self.action.to_owned()))?;
        match first {
            Operand { base: Base::Function(name), fields } if fields.is_empty() => {
                Ok(Command::Call(name, operands.collect()))
            }
            first if operands.len() == 0 => Ok(Command::Operand(first)),
            _ => Err(unexpected("argument of what is no function", self.action)),
        }
    }

    fn operand(&mut self, token: Token, depth: usize) -> Result<Operand, TemplateError> {
        let mut fields = Vec::new();
        let base = match token {
            Token::Dot => Base::Dot,
            Token::Field { name, .. } => {
                fields.push(name);
                Base::Dot
            }
            Token::Variable(name) => Base::Variable(name),
            Token::Literal(value) => Base::Literal(value),
            Token::Word(word) => match &*word {
                "true" => Base::Literal(true.into()),
                "false" => Base::Literal(false.into()),
                "nil" => Base::Literal(Value::Null),
                name if (self.known)(name) => Base::Function(word),
                _ => return Err(TemplateError::Function(word)),
            },
            Token::Open => {
                let inner = self.pipeline(depth + 1)?;
                match self.tokens.next() {
                    Some(Token::Close) => Base::Group(Box::new(inner)),
                    Some(token) => return Err(self.unexpected(&token)),
                    None => return Err(unexpected("end", self.action)),
                }
            }
            token => return Err(self.unexpected(&token)),
        };
        while let Some(Token::Field { name, .. }) =
            self.tokens.next_if(|token| matches!(token, Token::Field { attached: true, .. }))
        {
            fields.push(name);
        }
        Ok(Operand { base, fields })
    }
}
