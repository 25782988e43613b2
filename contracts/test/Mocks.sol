// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";

import {Escrow} from "../src/Escrow.sol";

/// @notice Takes 1 % of every transfer.
contract FeeToken is ERC20("fee", "FEE") {
    function mint(address account, uint256 amount) external {
        _mint(account, amount);
    }

    function _update(address from, address to, uint256 amount) internal override {
        if (from != address(0) && to != address(0)) {
            super._update(from, address(0xFEE), amount / 100);
            amount -= amount / 100;
        }
        super._update(from, to, amount);
    }
}

/// @notice Calls the escrow back in the middle of a transfer.
contract CallbackToken is ERC20("callback", "CB") {
    address public target;
    bytes public data;
    bool public succeeded;

    function mint(address account, uint256 amount) external {
        _mint(account, amount);
    }

    function arm(address target_, bytes calldata data_) external {
        (target, data) = (target_, data_);
    }

    function _update(address from, address to, uint256 amount) internal override {
        super._update(from, to, amount);
        if (target != address(0)) (succeeded,) = target.call(data);
    }
}

/// @notice A contract wallet with one owner (ERC-1271).
contract Wallet {
    address public immutable OWNER;

    constructor(address owner) {
        OWNER = owner;
    }

    function isValidSignature(bytes32 hash, bytes calldata signature)
        external
        view
        returns (bytes4)
    {
        return ECDSA.recover(hash, signature) == OWNER ? this.isValidSignature.selector : bytes4(0);
    }

    function run(address target, bytes calldata data) external {
        (bool done, bytes memory reason) = target.call(data);
        if (!done) {
            assembly {
                revert(add(reason, 0x20), mload(reason))
            }
        }
    }
}

/// @notice Withdraws native coin, and tries again while it is being paid.
contract NativeThief {
    Escrow public immutable ESCROW;
    bool public again;
    bool public refuse;

    constructor(Escrow escrow) payable {
        ESCROW = escrow;
    }

    function put(uint256 amount) external {
        ESCROW.depositNative{value: amount}();
    }

    function take(uint256 amount, bool again_, bool refuse_) external {
        (again, refuse) = (again_, refuse_);
        ESCROW.withdraw(address(0), amount);
    }

    receive() external payable {
        require(!refuse, "refused");
        if (again) ESCROW.withdraw(address(0), 1);
    }
}

/// @notice transfer and transferFrom return nothing, like the largest dollar on the main chain.
contract SilentToken {
    mapping(address => uint256) public balanceOf;

    function mint(address account, uint256 amount) external {
        balanceOf[account] += amount;
    }

    function transfer(address to, uint256 amount) external {
        balanceOf[msg.sender] -= amount;
        balanceOf[to] += amount;
    }

    function transferFrom(address from, address to, uint256 amount) external {
        balanceOf[from] -= amount;
        balanceOf[to] += amount;
    }
}

/// @notice Returns false instead of reverting, and moves nothing.
contract FalseToken is ERC20("false", "FALSE") {
    function transferFrom(address, address, uint256) public pure override returns (bool) {
        return false;
    }
}

/// @notice Delivers one more than it was asked for.
contract GenerousToken is ERC20("generous", "GEN") {
    function _update(address from, address to, uint256 amount) internal override {
        super._update(from, to, amount);
        if (from != address(0)) super._update(address(0), to, 1);
    }

    function mint(address account, uint256 amount) external {
        _mint(account, amount);
    }
}

/// @notice Its issuer may stop every transfer.
contract PausableToken is ERC20("pausable", "PAUSE") {
    bool public paused;

    function mint(address account, uint256 amount) external {
        _mint(account, amount);
    }

    function pause(bool paused_) external {
        paused = paused_;
    }

    function _update(address from, address to, uint256 amount) internal override {
        require(!paused, "paused");
        super._update(from, to, amount);
    }
}

/// @notice A contract wallet that, once broken, reverts whatever it is asked; before that it says
/// yes to one owner. It may also try to call the escrow while it is asked.
contract MoodyWallet {
    enum Mood {
        Good,
        Reverts,
        Garbage,
        Burns,
        Reenters,
        Floods,
        Lies
    }

    address public immutable OWNER;
    Mood public mood;
    address public target;
    bytes public data;

    constructor(address owner) {
        OWNER = owner;
    }

    function set(Mood mood_, address target_, bytes calldata data_) external {
        (mood, target, data) = (mood_, target_, data_);
    }

    function isValidSignature(bytes32 hash, bytes calldata signature)
        external
        returns (bytes4 magic)
    {
        if (mood == Mood.Reverts) revert("broken");
        if (mood == Mood.Garbage) {
            assembly {
                mstore(0, not(0))
                return(0, 3)
            }
        }
        if (mood == Mood.Burns) while (true) {}
        if (mood == Mood.Floods) {
            assembly {
                mstore(0, shl(224, 0x1626ba7e)) // the right answer, and very much behind it
                return(0, 400000)
            }
        }
        if (mood == Mood.Lies) return 0xffffffff;
        if (mood == Mood.Reenters) {
            (bool done,) = target.call(data); // under a staticcall, whatever writes reverts
            require(done, "refused");
        }
        if (ECDSA.recover(hash, signature) == OWNER) magic = 0x1626ba7e;
    }

    function run(address to, bytes calldata data_) external {
        require(mood == Mood.Good, "broken");
        (bool done,) = to.call(data_);
        require(done, "refused");
    }
}

/// @notice While it is being paid, does something else with the escrow.
contract NativeMeddler {
    Escrow public immutable ESCROW;
    bytes public data;
    bool public done;

    constructor(Escrow escrow) payable {
        ESCROW = escrow;
    }

    function put(uint256 amount) external {
        ESCROW.depositNative{value: amount}();
    }

    function take(uint256 amount, bytes calldata data_) external {
        data = data_;
        ESCROW.withdraw(address(0), amount);
    }

    receive() external payable {
        (done,) = address(ESCROW).call(data);
    }
}
